"""What is installed under a name: found, resolved, imported and checked, described."""
