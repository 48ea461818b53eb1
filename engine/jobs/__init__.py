"""What the verbs and the session do, without a terminal: job (first event to last), work (train, merge), record (provenance)."""
