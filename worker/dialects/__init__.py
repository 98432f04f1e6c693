"""Translation between the worker's one vocabulary and one provider kind each; no IO."""
