"""ggml in a live process: its structs' layouts, its graphs, its names."""
