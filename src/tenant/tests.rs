//! Whose is it: claims, anonymous data, models.
