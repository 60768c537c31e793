//! One kind, followed for ever. Refuses to take up a watch again that the API server refused: nothing tells that it works
//! again but a list, so it begins anew with one.

use std::fmt::Debug;

use futures::stream::{self, Stream, StreamExt};
use kube::Resource;
use kube::api::Api;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;

/// What happens to these objects, from a list on; after a refusal from a list again.
pub(crate) fn anew<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).boxed();
    let first = begin();
    stream::unfold((first, begin), |(mut events, begin)| async move {
        let event = events.next().await?;
        if event.as_ref().is_err_and(|error| refusal(error).is_some()) {
            events = begin();
        }
        Some((event, (events, begin)))
    })
}

/// What the API server said instead of beginning.
pub(crate) fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// Why a kind cannot be listed, where that is not for the API server being away.
pub(crate) fn refusal(error: &watcher::Error) -> Option<&'static str> {
    match code(error)? {
        404 => Some(
            ": the API server does not serve that kind; install the custom resource definitions",
        ),
        403 => Some(": the API server refuses to list them; grant the rights of the chart"),
        _ => None,
    }
}
