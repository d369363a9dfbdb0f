"""Statistical guarantees, each with a mutant: the broken rule run through the same check, which must fail it."""
