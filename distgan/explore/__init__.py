"""A local page that draws with a trained generator: sliders, and a picture that follows them."""
