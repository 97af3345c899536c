//! Users, and what they may do.

use crate::client::strings;
use crate::server::{Kind, Server};

fn repld() -> Server {
    Kind::Repld.server().expect("it is built").start()
}

#[test]
fn a_user_runs_what_it_may_and_nothing_else() {
    let server = repld();
    let (mut admin, mut user) = (server.connect(), server.connect());
    admin.ok("ACL SETUSER alice on >secret +@string +copy +sort +publish +multi +exec -append ~a:* %R~r:* &news");
    assert!(user.run("AUTH alice wrong").starts_with("-WRONGPASS"));
    user.ok("AUTH alice secret");
    user.ok("SET a:1 x");
    for (line, wanted) in [
        ("APPEND a:1 x", "-NOPERM this user has no permissions to run the 'append' command\r\n"),
        ("DEL a:1", "-NOPERM this user has no permissions to run the 'del' command\r\n"),
        ("SET b x", "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"),
        ("SET r:1 x", "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"),
        ("SORT a:1 GET secret:*", "-ERR GET option of SORT denied due to insufficient ACL permissions.\r\n"),
        ("PUBLISH olds x", "-NOPERM this user has no permissions to access one of the channels used as arguments\r\n"),
        ("GET r:1", "$-1\r\n"),
        ("COPY r:1 a:2", ":0\r\n"),
        ("PUBLISH news x", ":0\r\n"),
    ] {
        assert_eq!(user.run(line), wanted, "{line}");
    }
    let log = admin.call(&["ACL", "LOG", "1"]);
    assert!(strings(&log).contains(&&b"olds"[..]) && strings(&log).contains(&&b"alice"[..]));
}

#[test]
fn rights_that_are_taken_away_are_gone_at_once() {
    let server = repld();
    let (mut admin, mut user, mut listener) = (server.connect(), server.connect(), server.connect());
    admin.ok("ACL SETUSER alice on nopass +@all ~* &*");
    user.ok("AUTH alice x");
    user.ok("MULTI");
    user.run("SET k v");
    listener.ok("AUTH alice x");
    listener.run("SUBSCRIBE news");
    admin.ok("ACL SETUSER alice -set resetchannels");
    assert!(user.run("EXEC").contains("-NOPERM ACLs rules changed"));
    assert_eq!(admin.run("EXISTS k"), ":0\r\n");
    assert!(listener.reply().is_err(), "its connection has ended");
    assert_eq!(admin.run("ACL DELUSER alice"), ":1\r\n");
    assert!(user.reply().is_err(), "so has this one");
}

#[test]
fn alternatives_do_not_add_up() {
    let server = repld();
    let mut admin = server.connect();
    admin.ok("ACL SETUSER bob on nopass \"(%R~r* +@all)\" (%W~w* +@all)");
    assert_eq!(admin.run("ACL DRYRUN bob GET r"), "+OK\r\n");
    assert_eq!(admin.run("ACL DRYRUN bob LPUSH w x"), "+OK\r\n");
    let refused = admin.bulk("ACL DRYRUN bob COPY r w");
    assert!(refused.starts_with("This user has no permissions to access the"), "{refused}");
}

#[test]
fn users_outlive_the_server_in_its_configuration() {
    let launcher = Kind::Repld.server().expect("it is built").directive("user", "alice on nopass +get ~a:*");
    let mut server = launcher.start();
    let mut admin = server.connect();
    admin.ok("ACL SETUSER bob on >secret +set ~b");
    admin.ok("CONFIG REWRITE");
    let before = admin.run("ACL LIST");
    server.restart();
    let mut admin = server.connect();
    assert_eq!(admin.run("ACL LIST"), before);
    admin.ok("AUTH bob secret");
    admin.ok("SET b x");
    assert!(admin.run("GET b").starts_with("-NOPERM"));
}

#[test]
fn a_file_of_users_is_read_whole_or_not_at_all() {
    let server = Kind::Repld.server().expect("it is built").directive("aclfile", "users.acl");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("users.acl");
    std::fs::write(&file, "user alice on nopass +@all ~*\n").expect("written");
    let server = server.directive("aclfile", file.to_str().expect("UTF-8")).start();
    let mut admin = server.connect();
    admin.ok("AUTH alice x");
    admin.ok("ACL SETUSER eve on >e +get ~*");
    admin.ok("ACL SAVE");
    assert!(std::fs::read_to_string(&file).expect("there").contains("user eve on #"));
    std::fs::write(&file, "user carol on nopass +@all\nuser carol off\n").expect("written");
    assert!(admin.run("ACL LOAD").contains("Duplicate user 'carol' found on line 2"));
    assert_eq!(admin.run("ACL WHOAMI"), "$5\r\nalice\r\n");
}
