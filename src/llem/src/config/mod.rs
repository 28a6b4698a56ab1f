//! Studies and experiments as the user writes them.
