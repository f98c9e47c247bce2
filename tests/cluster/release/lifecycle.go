package release

import (
	"context"
	"time"

	"helm.sh/helm/v3/pkg/action"
)

// UpgradeAtomic does what `helm upgrade --atomic --timeout` does. Its error says that everything was rolled back.
func (r *Release) UpgradeAtomic(ctx context.Context, values map[string]any, timeout time.Duration) error {
	return r.upgradeWithin(ctx, values, timeout, true)
}

// UpgradeWaiting does what `helm upgrade --wait --timeout` does.
func (r *Release) UpgradeWaiting(ctx context.Context, values map[string]any, timeout time.Duration) error {
	return r.upgradeWithin(ctx, values, timeout, false)
}

func (r *Release) upgradeWithin(ctx context.Context, values map[string]any, timeout time.Duration, atomic bool) error {
	upgrade := action.NewUpgrade(r.config)
	upgrade.Namespace, upgrade.Timeout, upgrade.Atomic, upgrade.Wait = r.Namespace, timeout, atomic, true
	values, err := asFile(values)
	if err != nil {
		return err
	}
	_, err = upgrade.RunWithContext(ctx, r.Name, r.chart, values)
	return wrap("upgrade --wait", err)
}

// Rollback does what `helm rollback` does; 0 is the revision before the last.
func (r *Release) Rollback(revision int) error {
	rollback := action.NewRollback(r.config)
	rollback.Version, rollback.Timeout = revision, patience
	return wrap("rollback", rollback.Run(r.Name))
}

// Pending tells whether the last thing that was done to the release was cut off; Helm then wants a rollback first.
func (r *Release) Pending() (bool, error) {
	last, err := r.config.Releases.Last(r.Name)
	if err != nil {
		return false, wrap("status", err)
	}
	return last.Info.Status.IsPending(), nil
}

// UninstallWithin does what `helm uninstall --timeout` does.
func (r *Release) UninstallWithin(timeout time.Duration) error {
	uninstall := action.NewUninstall(r.config)
	uninstall.Timeout = timeout
	_, err := uninstall.Run(r.Name)
	return wrap("uninstall", err)
}
