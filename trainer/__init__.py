"""The trainer: files of normal records in, a versioned artifact out."""
