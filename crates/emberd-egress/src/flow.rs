//! One stream of a session, from its request to its end.

use std::sync::Arc;

use emberd_proto::EgressReason;
use emberd_proto::egress::{EgressAnswer, EgressRequest};

use crate::connect::Connect;
use crate::lookup;
use crate::mux::MuxStream;
use crate::peer::Peer;
use crate::state::Sandbox;

/// Serves one stream that the guest opened.
pub(crate) async fn serve(sandbox: Arc<Sandbox>, stream: MuxStream) {
    let mut peer = Peer::new(stream);
    // A guest that sends no request, or something else, is reset.
    match peer.request().await {
        Some(EgressRequest::Open { address, port, names }) => {
            Connect::new(&sandbox, address.to_canonical(), port, &names).run(&mut peer).await;
        }
        Some(EgressRequest::Resolve { name, family }) => {
            let answer = lookup::resolve(&sandbox, &name, family).await;
            peer.end_with(&answer).await;
        }
        Some(EgressRequest::Unknown) => {
            peer.end_with(&EgressAnswer::Refused { reason: EgressReason::Other }).await;
        }
        None => {}
    }
}
