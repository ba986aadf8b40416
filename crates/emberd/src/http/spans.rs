//! Passes the span of a request on to the program that it starts.

use std::collections::BTreeMap;

use axum::Extension;
use emberd_sandbox::Handle;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, Type};

use crate::traces::{TRACEPARENT_HEADER, TRACEPARENT_VARIABLE, Traceparent};

/// The header in the OpenAPI document.
pub struct ParentSpan;

impl IntoParams for ParentSpan {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let header = ParameterBuilder::new()
            .name(TRACEPARENT_HEADER)
            .parameter_in(ParameterIn::Header)
            .description(Some(
                "The span that the request belongs to (W3C Trace Context). The program has it as \
                 `TRACEPARENT`, unless it has a variable of that name of its own.",
            ))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        vec![header.build()]
    }
}

/// Adds the parent of the program's spans to its environment, unless the caller has set that
/// variable, for the program or for all of the sandbox.
pub fn pass_on(
    parent: Option<Extension<Traceparent>>,
    sandbox: &Handle,
    env: &mut BTreeMap<String, String>,
) {
    let Some(Extension(parent)) = parent else { return };
    if !sandbox.view().env.iter().any(|name| name == TRACEPARENT_VARIABLE) {
        parent.add_to(env);
    }
}
