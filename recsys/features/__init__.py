"""One definition of every feature: what it is (spec), how a user changes (state), how records become arrays (encode)."""
