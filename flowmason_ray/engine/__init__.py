"""FlowMason on Ray."""
