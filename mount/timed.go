package mount

import (
	"time"

	"github.com/kmsfs/kmsfs/principals/policy"
)

// timedEvery is how often decisions are taken again that the time of day alone may change.
const timedEvery = time.Second

// watchTime ends, once a second, the trust of open handles and of kernels' caches in what policies with conditions on the time of day
// have allowed. What is asked anew is decided by the clock anyway.
func (h *Hub) watchTime() {
	defer h.done.Done()
	tick := time.NewTicker(timedEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.closed:
			return
		case <-tick.C:
			h.lapse()
		}
	}
}

func (h *Hub) lapse() {
	for _, arn := range h.cfg.Keystore.Timed() {
		h.keyChanged(arn)
	}
	told := map[string]bool{}
	for _, s := range *h.sessions.Load() {
		name := s.cfg.Principal
		if told[name] {
			continue
		}
		told[name] = true
		if who, err := h.cfg.Principals.Identity(name); err == nil && timed(who) {
			h.principalChanged(name)
		}
	}
	h.mu.Lock()
	buckets := false
	for _, b := range h.buckets {
		buckets = buckets || b.policy != nil && b.policy.Volatile()
	}
	h.everyone = h.everyone || buckets
	h.mu.Unlock()
	if buckets {
		h.policyEpoch.Add(1)
		h.bump()
	}
}

// timed reports whether what an identity may do can change with time alone.
func timed(who *policy.Identity) bool {
	for _, n := range who.Policies {
		if n.Document.Volatile() {
			return true
		}
	}
	return who.Boundary != nil && who.Boundary.Document.Volatile() || who.SessionPolicy != nil && who.SessionPolicy.Document.Volatile()
}
