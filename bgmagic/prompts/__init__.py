"""Cell text, expressions, earlier turns and files become the messages of a request."""
