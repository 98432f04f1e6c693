"""Types and codecs of the protocols' bytes; no meaning, no IO."""
