"""The service: recommendations over HTTP, and the page that shows them."""
