"""The one definition of every feature: specification (spec), user history (state), encoding into arrays (encode)."""
