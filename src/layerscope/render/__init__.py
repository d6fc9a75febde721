"""Results as people read them: terminal, HTML pages and charts."""
