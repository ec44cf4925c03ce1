//! The lab: network namespaces with a real server, real clients and a flood. None of its traffic can leave: the
//! namespaces have no uplink, and they disappear with the process that created them, however it ends.

pub mod addresses;
pub mod bridge;
pub mod browser;
pub mod build;
pub mod client;
pub mod daemon;
pub mod distance;
pub mod distant_clients;
pub mod fixtures;
pub mod flood;
pub mod frame;
pub mod http;
pub mod loaded;
pub mod machine;
pub mod machine_lock;
pub mod md5;
pub mod namespace;
pub mod neighbour;
pub mod network;
pub mod oracle;
pub mod process;
pub mod redirect;
pub mod reply_path;
pub mod scene;
pub mod server;
pub mod site;
pub mod soak;
pub mod wait;
pub mod ways;
pub mod wire;

pub use browser::Browser;
pub use client::{Client, Connections};
pub use daemon::{Daemon, Setup};
pub use distance::{FarClient, Path};
pub use distant_clients::{DistantClients, Served};
pub use flood::{Flood, FloodSpec, Sources};
pub use machine_lock::share_machine;
pub use namespace::Namespace;
pub use neighbour::Neighbour;
pub use network::Lab;
pub use process::{Finished, finish, said};
pub use scene::Scene;
pub use tcpguard::api::model::Stats;
pub use wait::eventually;
