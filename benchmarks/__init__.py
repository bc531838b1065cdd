"""Programs that measure, and the pages of what they measured."""
