//! Products that read the same rows: those are packed once, and a thread goes from its part of one product to its part of
//! the next without meeting the others.

use super::driver::Plan;
use super::panels::{Unit, unit_len};
use super::tasks::{Place, Tasks};

/// Products that are cut into as many parts as each other.
pub(super) struct Group<'a> {
    members: Vec<Member<'a>>,
    panels: usize,
}

struct Member<'a> {
    plan: &'a Plan<'a>,
    tasks: Tasks<'a>,
    /// Panels of the members before it.
    first_panel: usize,
}

impl<'a> Group<'a> {
    /// Of at least one product, for threads that take tasks from so many parts.
    pub(super) fn new(plans: &'a [Plan<'a>], parts: usize) -> Self {
        let mut group = Self {
            members: Vec::with_capacity(plans.len()),
            panels: 0,
        };
        let columns = plans.iter().map(|plan| plan.n).sum();
        for (index, plan) in plans.iter().enumerate() {
            let place = Place {
                is_first: index == 0,
                is_last: index + 1 == plans.len(),
                columns,
            };
            let tasks = Tasks::new(plan, parts, place);
            let first_panel = group.panels;
            group.panels += tasks.panels();
            group.members.push(Member {
                plan,
                tasks,
                first_panel,
            });
        }
        group
    }

    /// Panels of all products, each for all chunks of rows.
    pub(super) fn panels(&self) -> usize {
        self.panels
    }

    /// Tasks of all products.
    pub(super) fn count(&self) -> usize {
        self.members[0].plan.cut.parts() * self.in_part()
    }

    /// Dwords of a thread's buffer for one unit, the same for all: they have one kernel and one direction.
    pub(super) fn unit_len(&self) -> usize {
        unit_len(self.members[0].plan)
    }

    fn in_part(&self) -> usize {
        self.members
            .iter()
            .map(|member| member.tasks.in_part())
            .sum()
    }

    /// What a task multiplies, one unit after the other. The tasks of a part are those of the first product, then of
    /// the next.
    pub(super) fn units(
        &self,
        task: usize,
    ) -> impl Iterator<Item = (&'a Plan<'a>, Unit)> + use<'a> {
        let (part, mut task) = (task / self.in_part(), task % self.in_part());
        let mut members = self.members.iter();
        let mut member = members.next().expect("a group has a product");
        while task >= member.tasks.in_part() {
            task -= member.tasks.in_part();
            member = members.next().expect("the task is one of a product");
        }
        let (plan, first_panel) = (member.plan, member.first_panel);
        member.tasks.units(part, task).map(move |mut unit| {
            unit.first_panel += first_panel;
            (plan, unit)
        })
    }
}
