"""Speed and paper benchmarks; they run from the checkout."""
