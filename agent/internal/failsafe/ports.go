package failsafe

// This file is what only the controller asks for.

// Ports returns the TCP ports to which Felix's failsafe on a node would let somebody in without
// us. own and def are as for Plan. What we wrote has all of them but may be behind: a port that
// def has lost is about to go from it, too.
func Ports(own, def *Configuration) (ports []uint16, err error) {
	wrote, err := remembered(own)
	if err != nil {
		return nil, err
	}
	before, err := listOf(own)
	if err != nil {
		return nil, err
	}
	list, err := effective(own, def, wrote.before(before))
	for _, entry := range list {
		if protocol(entry) == tcp {
			ports = append(ports, entry.Port)
		}
	}
	return ports, err
}
