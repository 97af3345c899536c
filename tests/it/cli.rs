//! The command line as a whole: usage, output and exit codes.

use crate::{Fixture, Run};

#[test]
fn wrong_usage_ends_in_code_2() {
    let here = Fixture::new();
    let run = here.run(&["chekc"]).exits(2);
    assert!(run.stderr.contains("'check'"), "the nearest subcommand is offered: {}", run.stderr);
    here.run::<&str>(&[]).exits(2);
    here.run(&["check", "--no-such-flag"]).exits(2);
    here.run(&["init", "no-such-preset"]).exits(2);
}

#[test]
fn wrong_usage_is_an_object_under_json() {
    let here = Fixture::new();
    let run = here.run(&["chekc", "--json"]).exits(2);
    assert_eq!(run.stderr, "");
    assert_eq!(run.json()["error"]["exit_code"], 2);
    assert_eq!(run.json()["error"]["message"], "unrecognized subcommand 'chekc'");
}

#[test]
fn help_shows_every_exit_code_and_so_does_the_readme() {
    let help = Fixture::new().run(&["--help"]).exits(0).stdout;
    let (_, codes) = help.split_once("Exit codes:\n").expect("help lists the exit codes");
    let codes: Vec<_> = codes.lines().filter_map(|line| line.trim().split_once("  ")).collect();
    assert_eq!(codes.len(), 8);
    let readme = include_str!("../../README.md");
    for (code, words) in codes {
        assert!(readme.contains(&format!("| {code} | {words} |")), "the README's table has {code}: {words}");
    }
}

#[test]
fn the_readme_lists_every_subcommand() {
    let help = Fixture::new().run(&["--help"]).exits(0).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let readme = include_str!("../../README.md");
    let missing: Vec<&str> = names.filter(|name| *name != "help" && !readme.contains(&format!("| `{name}"))).collect();
    assert!(missing.is_empty(), "the README's table of commands lacks {missing:?}");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let here = Fixture::new();
    for arguments in [&["check"][..], &["--help"], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let run = Run::from(here.command(arguments).stdout(writer).output().expect("runs")).exits(0);
        assert_eq!(run.stderr, "", "{arguments:?}");
    }
}

#[test]
fn results_that_cannot_be_written_are_a_failure() {
    let here = Fixture::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has /dev/full");
    let run = Run::from(here.command(&["check"]).stdout(full).output().expect("runs")).exits(1);
    assert!(run.stderr.starts_with("error: cannot write to stdout: "), "{}", run.stderr);
}

#[test]
fn colour_follows_the_option() {
    let here = Fixture::new();
    here.write("wrong.toml", "x = 1\n");
    assert!(!here.run(&["check", "wrong.toml"]).exits(2).stderr.contains('\x1b'), "stderr is no terminal");
    assert!(here.run(&["check", "wrong.toml", "--color", "always"]).exits(2).stderr.contains('\x1b'));
    let mut command = here.command(&["check", "wrong.toml", "--color", "never"]);
    let run = Run::from(command.env("CLICOLOR_FORCE", "1").output().expect("runs"));
    assert!(!run.stderr.contains('\x1b'));
}

#[test]
fn completions_register_with_each_shell_and_know_the_subcommands() {
    let here = Fixture::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(here.run(&["completions", shell]).exits(0).stdout.contains("COMPLETE"), "{shell}");
    }
    let mut command = here.command(&["--", "replctl", "ch"]);
    let run = Run::from(command.env("COMPLETE", "fish").output().expect("runs")).exits(0);
    assert!(run.stdout.contains("check"), "{}", run.stdout);
}
