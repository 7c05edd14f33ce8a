//! What the mount options mean for the stack and the adapter.

use vexfs_core::fs::StackOptions;
use vexfs_core::ids::NodeKey;

use crate::options::{Control, Index, MountOptions};
use crate::place::Place;

/// How a mount speaks with the kernel.
#[derive(Clone, Debug)]
pub struct AdapterOptions {
    /// Let the kernel read and write backing files itself where it can.
    pub passthrough: bool,
    /// The kernel checks permissions (and ACLs): needed as soon as anybody but the owner may use the mount.
    pub default_permissions: bool,
    /// A file that was written to can be found when its close or fsync returns.
    pub sync_index: bool,
}

impl Default for AdapterOptions {
    fn default() -> AdapterOptions {
        AdapterOptions {
            passthrough: true,
            default_permissions: false,
            sync_index: false,
        }
    }
}

/// How the backing directory is to be shown at this place.
///
/// # Errors
/// When the mountpoint's parent cannot be looked at.
pub fn stack_options(place: &Place, options: &MountOptions) -> std::io::Result<StackOptions> {
    Ok(StackOptions {
        ctlname: (options.ctl != Control::Off).then(|| options.ctlname.clone()),
        ctl_listed: options.ctl == Control::Visible,
        ttl: options.ttl,
        handles: true,
        mountpoint: mountpoint_inside(place)?,
    })
}

/// The mountpoint's directory and name, if it lies inside SOURCE.
fn mountpoint_inside(place: &Place) -> std::io::Result<Option<(NodeKey, std::ffi::OsString)>> {
    if place.mountpoint == place.source || !place.mountpoint.starts_with(&place.source) {
        return Ok(None);
    }
    let (Some(parent), Some(name)) = (place.mountpoint.parent(), place.mountpoint.file_name()) else {
        return Ok(None);
    };
    let stat = rustix::fs::stat(parent)?;
    Ok(Some((
        NodeKey {
            dev: stat.st_dev,
            ino: stat.st_ino,
        },
        name.to_owned(),
    )))
}

impl From<&MountOptions> for AdapterOptions {
    fn from(options: &MountOptions) -> AdapterOptions {
        AdapterOptions {
            passthrough: options.passthrough,
            default_permissions: options.default_permissions,
            sync_index: options.index == Index::Sync,
        }
    }
}
