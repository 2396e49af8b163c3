"""A server that speaks the protocol of Claude's Messages API and answers by rule."""
