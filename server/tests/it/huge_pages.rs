//! Whether the kernel may give a server huge pages, which it then has to clear within a write.

use crate::server::Kind;

#[test]
fn a_server_takes_huge_pages_only_where_it_is_told_to() {
    for (directive, expected) in [("yes", "0"), ("no", "1")] {
        let Some(server) = Kind::Repld.server() else { return };
        let server = server.directive("disable-thp", directive).start();
        let mut client = server.connect();
        let file = format!("/proc/{}/status", client.info("process_id"));
        let status = std::fs::read_to_string(file).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
        // Kernels older than 5.0 do not tell.
        assert_eq!(line.map_or(expected, str::trim), expected, "disable-thp {directive}");
    }
}
