"""One process, one proxy, one port: answers Anthropic requests through one provider."""

__version__ = "0.1.0"
