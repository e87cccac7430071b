package firewall

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

var hooks = map[Hook]*nftables.ChainHook{
	Prerouting: nftables.ChainHookPrerouting, Input: nftables.ChainHookInput, Forward: nftables.ChainHookForward, Output: nftables.ChainHookOutput,
}

// Apply puts the rules in force, in the place of what the table had before: at once or not at all.
func Apply(s Ruleset) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // deleting one that is not there would fail the whole transaction
	conn.DelTable(table)
	conn.AddTable(table)
	sets := map[string]*nftables.Set{}
	for _, x := range s.Sets {
		set := &nftables.Set{
			Table: table, Name: x.Name, KeyType: nftables.TypeIPAddr, KeyByteOrder: binaryutil.BigEndian,
			Dynamic: true, HasTimeout: true, Timeout: sourceLife, Size: maxSources,
		}
		if err := conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("firewall: set %s: %w", x.Name, err)
		}
		sets[x.Name] = set
	}
	chains := make([]*nftables.Chain, len(s.Chains))
	for i, c := range s.Chains { // all of them, before a rule may jump to one
		chain := &nftables.Chain{Name: c.Name, Table: table}
		if c.Hook != "" {
			policy := nftables.ChainPolicyAccept
			if c.Policy == Drop {
				policy = nftables.ChainPolicyDrop
			}
			chain.Type, chain.Hooknum, chain.Priority, chain.Policy = nftables.ChainTypeFilter, hooks[c.Hook], nftables.ChainPriorityFilter, &policy
			if c.Hook == Prerouting {
				chain.Priority = nftables.ChainPriorityRaw
			}
		}
		chains[i] = conn.AddChain(chain)
	}
	for i, c := range s.Chains {
		for _, r := range c.Rules {
			rule := &nftables.Rule{Table: table, Chain: chains[i], Exprs: r.compile(sets)}
			if r.Comment != "" {
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
			}
			conn.AddRule(rule)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("firewall: rules: %w", err)
	}
	return nil
}

// Count is how often a rule with a comment applied.
type Count struct {
	Rule    string
	Packets uint64
}

// Check tells whether the rules are all there, which anything else with the same rights may have changed, and how often
// those with a comment applied. It does not read back what each rule is.
func Check(s Ruleset) ([]Count, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	var counts []Count
	for _, c := range s.Chains {
		rules, err := conn.GetRules(table, &nftables.Chain{Name: c.Name, Table: table})
		if err != nil {
			return nil, fmt.Errorf("firewall: chain %s: %w", c.Name, err)
		}
		if len(rules) != len(c.Rules) {
			return nil, fmt.Errorf("firewall: chain %s has %d rules, not %d: something else changed it", c.Name, len(rules), len(c.Rules))
		}
		for i, r := range rules {
			if c.Rules[i].Comment == "" {
				continue
			}
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok {
					counts = append(counts, Count{c.Rules[i].Comment, n.Packets})
				}
			}
		}
	}
	return counts, nil
}

// Ephemeral are the ports that the kernel gives to sockets which ask for none in particular.
func Ephemeral() (Ports, error) {
	const name = "/proc/sys/net/ipv4/ip_local_port_range"
	b, err := os.ReadFile(name)
	if err != nil {
		return Ports{}, fmt.Errorf("ephemeral ports: %w", err)
	}
	f := strings.Fields(string(bytes.TrimSpace(b)))
	if len(f) != 2 {
		return Ports{}, fmt.Errorf("ephemeral ports: %s says %q", name, b)
	}
	first, err1 := strconv.ParseUint(f[0], 10, 16)
	last, err2 := strconv.ParseUint(f[1], 10, 16)
	if err1 != nil || err2 != nil || first == 0 || last < first {
		return Ports{}, fmt.Errorf("ephemeral ports: %s says %q", name, b)
	}
	return Ports{uint16(first), uint16(last)}, nil
}
