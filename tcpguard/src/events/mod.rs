//! Events: what happened, for operators and for notifications.
//!
//! | module | subject |
//! | --- | --- |
//! | `event` | the kinds of events, and their content |
//! | `log` | keeping events, and passing them on to subscribers |
//! | `limit` | the rate limit of each kind |

mod event;
mod limit;
mod log;

pub use event::{Event, EventKind, Note};
pub use log::*;
