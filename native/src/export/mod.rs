//! Devices served to others.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`nbd`] | the NBD server: sockets, encryption and limits around the core's protocol |

pub mod nbd;
