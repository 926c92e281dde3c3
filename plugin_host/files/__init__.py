"""Files that the host reads and writes: audio, stems, spans, video, pictures."""
