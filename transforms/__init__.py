"""Pure functions on arrays and tables: read, tokenize, plan, build, write and measure examples."""
