package host

import (
	"errors"
	"fmt"
	"math"
	"time"

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
	report := AuditReport{Events: r.Records, First: r.First, Files: r.Files, Breaks: []string{}}
	for _, t := range r.Torn {
		report.Torn = append(report.Torn, fmt.Sprint(t))
	}
	for _, b := range r.Breaks {
		report.Breaks = append(report.Breaks, b.String())
	}
	return report, nil
}

// auditKeep shows how the log is kept and, if anything is given, changes it first, which takes cloudtrail:UpdateTrail and leaves an
// event: whoever may have events removed says so in the log.
func (c *call) auditKeep(a AuditKeepArgs) (any, error) {
	l := c.d.cfg.Audit
	if a == (AuditKeepArgs{}) {
		if err := c.mayReadLog(); err != nil {
			return nil, err
		}
		return auditKeepOf(l.Settings()), nil
	}
	if err := c.allowed("cloudtrail:UpdateTrail", "*", nil); err != nil {
		return nil, err
	}
	set, err := a.apply(l.Settings())
	if err == nil {
		err = set.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errArguments, err)
	}
	now := auditKeepOf(set)
	if err := l.Append(&audit.Event{
		UserIdentity: audit.UserIdentity{Type: "IAMUser", PrincipalID: c.who.ID, ARN: c.who.ARN, AccountID: c.who.Account, UserName: c.who.Name},
		EventName:    "UpdateTrail", EventSource: "cloudtrail.amazonaws.com", AWSRegion: c.d.cfg.Info.Region, ManagementEvent: true,
		RecipientAccountID: c.who.Account,
		RequestParameters: &audit.Parameters{Extra: map[string]any{
			"strict": now.Strict, "maxFileSize": now.MaxFileSize, "maxFileAge": now.MaxFileAge, "keepSize": now.KeepSize, "keepAge": now.KeepAge,
		}},
		AdditionalEventData: &audit.AdditionalEventData{Kmsfs: &audit.Origin{
			Op: c.name, UID: c.peer.UID, PID: uint32(c.peer.PID), Decision: audit.Decision{Effect: "Allow"},
		}},
	}); err != nil {
		return nil, err
	}
	if err := c.d.cfg.Configure(set); err != nil {
		return nil, err
	}
	return auditKeepOf(l.Settings()), nil
}

func (a AuditKeepArgs) apply(s audit.Settings) (audit.Settings, error) {
	if a.Strict != nil {
		s.Strict = *a.Strict
	}
	for to, from := range map[*int64]*int64{&s.MaxFileSize: a.MaxFileSize, &s.KeepSize: a.KeepSize} {
		if from != nil {
			*to = *from
		}
	}
	for to, from := range map[*time.Duration]*int64{&s.MaxFileAge: a.MaxFileAge, &s.KeepAge: a.KeepAge} {
		if from == nil {
			continue
		}
		if *from > math.MaxInt64/int64(time.Second) || *from < 0 {
			return s, fmt.Errorf("an age of %d seconds", *from)
		}
		*to = time.Duration(*from) * time.Second
	}
	return s, nil
}

func auditKeepOf(s audit.Settings) AuditKeep {
	if s.MaxFileSize == 0 {
		s.MaxFileSize = audit.DefaultFileSize
	}
	return AuditKeep{
		Strict: s.Strict, MaxFileSize: s.MaxFileSize, MaxFileAge: int64(s.MaxFileAge / time.Second),
		KeepSize: s.KeepSize, KeepAge: int64(s.KeepAge / time.Second),
	}
}
