"""The pruneonce runtime: its kernels, and its speed beside other engines."""
