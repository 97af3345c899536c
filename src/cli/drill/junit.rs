//! Verdicts as JUnit's XML, which CI systems show: <https://github.com/testmoapp/junitxml>.

use replctl::drill::{DrillReport, Verdict};

/// One suite, one case for each drill.
pub fn xml(reports: &[DrillReport]) -> String {
    let count = |is: fn(&Verdict) -> bool| reports.iter().filter(|report| is(&report.verdict)).count();
    let failures = count(|verdict| matches!(verdict, Verdict::Failed { .. }));
    let skipped = count(|verdict| matches!(verdict, Verdict::Inconclusive { .. }));
    let seconds = |microseconds: u64| microseconds as f64 / 1e6;
    let time = seconds(reports.iter().map(|report| report.took_us).sum());
    let tests = reports.len();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"replctl drill\" tests=\"{tests}\" \
         failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{time:.3}\">\n"
    );
    for report in reports {
        let (name, time) = (escaped(&report.drill), seconds(report.took_us));
        let verdict = match &report.verdict {
            Verdict::Passed => String::new(),
            Verdict::Failed { reasons } => {
                let first = reasons.first().map(String::as_str).unwrap_or_default();
                format!("<failure message=\"{}\">{}</failure>", escaped(first), escaped(&reasons.join("\n")))
            }
            Verdict::Inconclusive { reason } => format!("<skipped message=\"{}\"/>", escaped(reason)),
        };
        let seed = report.seed;
        xml += &format!(
            "  <testcase classname=\"drill\" name=\"{name} (seed {seed})\" time=\"{time:.3}\">{verdict}</testcase>\n"
        );
    }
    xml + "</testsuite>\n"
}

/// Text as XML and HTML have it; control characters are no XML at all.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(char),
            char if char.is_control() => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_would_take_for_its_own_is_escaped() {
        assert_eq!(escaped("a<b & \"c\"\n\u{1}"), "a&lt;b &amp; &quot;c&quot;\n\u{fffd}");
        assert!(xml(&[]).ends_with("time=\"0.000\">\n</testsuite>\n"));
    }
}
