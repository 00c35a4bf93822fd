"""Evidence, endorsements and a time in; verified claims or one precise error out."""
