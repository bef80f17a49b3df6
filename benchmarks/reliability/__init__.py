"""What happens to saved folders: hostile and damaged files, and kills while saving."""
