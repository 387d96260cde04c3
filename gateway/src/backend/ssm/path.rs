//! Where a key is in Parameter Store: its physical name under the operator's root, as a path.

use super::{Access, BackendError, PhysicalName, PhysicalRange, VerifiedTenant, scope_root};

/// Most levels of a parameter's name (API reference, `PutParameter`).
pub(super) const LEVELS: usize = 15;

/// The folder of a range. The third wall: it is made of the token's tenant.
pub(super) fn folder(
    root: &str,
    tenant: &VerifiedTenant,
    range: &PhysicalRange,
    access: Access,
) -> Result<String, BackendError> {
    let scope = scope_root(tenant, range, access)?;
    Ok(format!("{root}/{scope}/{}", range.folder()))
}

/// The name of a key's parameter.
pub(super) fn parameter(
    root: &str,
    tenant: &VerifiedTenant,
    name: &PhysicalName,
    access: Access,
) -> Result<String, BackendError> {
    let folder = folder(root, tenant, name.range(), access)?;
    Ok(format!("{folder}/{}", name.name()))
}

/// How deep that is.
pub(super) fn levels(path: &str) -> usize {
    path.matches('/').count()
}
