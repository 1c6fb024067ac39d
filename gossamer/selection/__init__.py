"""How sparse codes should be: cross-validated paths over the strength, and criteria that choose from them."""
