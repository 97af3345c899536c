//! The Redis serialization protocol (RESP2 and RESP3), both directions of one client connection.
//!
//! ```text
//! request   *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n      an array of bulk strings
//!           SET k "v"\r\n                                 or an inline line, split like a shell would
//! reply     +OK\r\n  -ERR why\r\n  :1\r\n  $1\r\nv\r\n  *2\r\n…   and with HELLO 3  %1\r\n…  ~1\r\n…  _\r\n  ,3.5\r\n
//! ```
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. A request is never copied: its
//! arguments are spans of the buffer that it was read into. No declared length allocates anything; what does
//! not fit the limits is refused with the error texts that clients of Redis know.

mod reply;
mod request;

pub use reply::{Protocol, Reply, append_request, count_requests};
pub use request::{Limits, ProtocolError, Request, RequestParser, Span};
