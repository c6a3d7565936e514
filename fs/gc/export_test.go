package gc

// SweepIndexAt has the index of files by key swept when as many inodes were removed.
func (r *Reaper) SweepIndexAt(removed uint64) { r.sweepAt.Store(removed) }
