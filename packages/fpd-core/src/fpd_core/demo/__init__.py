"""Students in a browser: `build` writes a static page that draws by itself, `serve` draws in Python."""
