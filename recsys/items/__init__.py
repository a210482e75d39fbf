"""Items change between trainings: what a change is, where changes are kept, and what they make of a bundle's catalogue."""
