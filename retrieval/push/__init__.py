"""An export's rows in other systems that search vectors: written once, and from then on only what has changed."""
