package host

import (
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

func (c *call) mayReadLog() error { return c.allowed("cloudtrail:LookupEvents", "*", nil) }

func (c *call) filter(a AuditArgs) audit.Filter {
	f := audit.Filter{Principal: a.Principal, Denied: a.Denied, Last: a.Last}
	if a.Key != "" {
		f.Key = a.Key
		// The past of a key that is gone, or that an alias led to once, is found too.
		if arn, err := c.d.cfg.Keystore.Resolve(a.Key); err == nil {
			f.Key = arn
		}
	}
	return f
}

// event emits one event in CloudTrail's shape.
func (c *call) event(e audit.Event) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	return c.emit(&e)
}

func (c *call) auditQuery(a AuditArgs) (any, error) {
	if err := c.mayReadLog(); err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Audit.Query(c.filter(a), c.event)
}

// auditTail shows the last events and, if asked, goes on until the caller
// hangs up; nothing falls between the two. A right that is taken away ends it.
func (c *call) auditTail(a AuditArgs) (any, error) {
	if err := c.mayReadLog(); err != nil {
		return nil, err
	}
	if a.Last < 0 || a.Last > MaxTail {
		return nil, fmt.Errorf("%w: at most %d events", errArguments, MaxTail)
	}
	f := c.filter(a)
	f.After = c.d.cfg.Audit.Head().Sequence
	if a.Last > 0 {
		past := f
		past.After = 0
		if err := c.d.cfg.Audit.Query(past, func(e audit.Event) error {
			f.After = max(f.After, e.Sequence)
			return c.event(e)
		}); err != nil {
			return nil, err
		}
	}
	if !a.Follow {
		return nil, nil
	}
	err := c.d.cfg.Audit.FollowAfter(c.ctx, f, func(e audit.Event) error {
		if err := c.actAs(c.as); err != nil {
			return err
		}
		if err := c.mayReadLog(); err != nil {
			return err
		}
		return c.event(e)
	})
	if c.ctx.Err() != nil {
		err = nil
	}
	return nil, err
}

func (c *call) auditVerify() (any, error) {
	if err := c.mayReadLog(); err != nil {
		return nil, err
	}
	r, err := c.d.cfg.Audit.Verify()
	if err != nil && !errors.Is(err, audit.ErrBroken) {
		return nil, err
	}
	report := AuditReport{Events: r.Records, Files: r.Files, Breaks: []string{}}
	for _, t := range r.Torn {
		report.Torn = append(report.Torn, fmt.Sprint(t))
	}
	for _, b := range r.Breaks {
		report.Breaks = append(report.Breaks, b.String())
	}
	return report, nil
}
