"""Networks whose layers can be iterated to a fixed point; knows no Gymnasium."""
