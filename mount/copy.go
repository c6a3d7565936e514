package mount

// Copy copies a range between two open files inside the daemon, through both gates, and says how many bytes. What was in buf on the way
// is wiped.
func Copy(from *Handle, off int64, to *Handle, at int64, n int64, buf []byte, killPriv bool) (int64, error) {
	var done int64
	used := 0
	defer func() { clear(buf[:used]) }()
	for done < n {
		p := buf[:min(int64(len(buf)), n-done)]
		r, err := from.ReadAt(p, off+done)
		if err != nil {
			used = len(buf) // nobody knows
			return done, partial(done, err)
		}
		used = max(used, r)
		if r == 0 {
			break
		}
		w, err := to.WriteAt(p[:r], at+done, killPriv)
		done += int64(w)
		if err != nil {
			return done, partial(done, err)
		}
		if r < len(p) {
			break // that was the end
		}
	}
	return done, nil
}

// partial hides an error behind what was copied before it: the next call meets it again.
func partial(done int64, err error) error {
	if done > 0 {
		return nil
	}
	return err
}
