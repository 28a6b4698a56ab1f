use llem_protocol::FailureClass;

use super::{EngineError, engine_failure};

#[test]
fn refusals_have_classes() {
    let refused = |message: &str| EngineError::Refused {
        operation: "start the container".into(),
        status: 500,
        message: message.into(),
    };
    let class = |message: &str| engine_failure(&refused(message)).class;
    assert_eq!(class("could not select device driver \"nvidia\" with capabilities: [[gpu]]"), FailureClass::NoGpu);
    assert_eq!(class("Unknown runtime specified nvidia"), FailureClass::NoGpu);
    assert_eq!(
        class("OCI runtime create failed: exec: \"/llem/agent\": stat /llem/agent: no such file or directory"),
        FailureClass::AgentMissing
    );
    assert_eq!(class("exec /llem/agent: exec format error"), FailureClass::AgentMissing);
    assert_eq!(class("invalid mount config for type \"bind\""), FailureClass::ContainerRefused);
}
