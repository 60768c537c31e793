//! The active probe: is the backend there and does it know us. It never carries a prompt, and what
//! it finds must not overrule what requests find.

use std::time::Duration;

use tokio::time::timeout;

use crate::headers::Accept;
use crate::upstream::Target;
use crate::{AttemptError, failure};

/// `GET …/models`, within `limit` as a whole.
pub(crate) async fn probe(target: Target, limit: Duration) -> Result<(), AttemptError> {
    let ask = async {
        let response = target
            .client
            .get(target.url("models"))
            .headers(target.headers(Accept::Json)?)
            .send()
            .await
            .map_err(|error| target.unsent(&error))?;
        let status = response.status();
        // Some servers have no list of models; that they say so is answer enough.
        if status.is_success() || matches!(status.as_u16(), 404 | 405 | 501) {
            return Ok(());
        }
        Err(failure::refused(response, &target.scrubber()).await)
    };
    timeout(limit, ask)
        .await
        .unwrap_or(Err(AttemptError::Timeout))
}
