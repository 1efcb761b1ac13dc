"""Commands that measure speed and quality; each takes --json FILE."""
