//! The cost of a packet at each hook: XDP, XDP in a chain before another program, traffic control. A single frame is
//! run repeatedly, so the costs are lower than those of varying packets.

use std::net::IpAddr;

use anyhow::Result;
use aya::programs::TestRunOptions;
use lab::{FloodSpec, Lab, Neighbour, Sources, frame};
use tcpguard::{
    config::{Coexist, Config, Hook, XdpMode},
    datapath::{AttachMode, Attachment, Datapath, PinScope, Target, remove_pins},
};
use tokio::runtime::Runtime;

use super::{
    Effort,
    packets::{Case, Standing, Statistic, options, set_standing},
};

/// Name and index of the interface that frames of BPF_PROG_TEST_RUN are received on by default.
const LOOPBACK: (&str, u32) = ("lo", 1);

#[derive(Clone, Copy)]
enum Place {
    Xdp,
    /// The other program counts and passes everything.
    BeforeAnother,
    TrafficControl,
}

/// The datapath, with what keeps it attached.
struct Placed {
    datapath: Datapath,
    other: Option<(Neighbour, Attachment)>,
}

impl Placed {
    fn take_off(self) -> Result<()> {
        let Self { mut datapath, other } = self;
        if let Some((_, attachment)) = other {
            datapath.let_go(attachment);
            drop(datapath);
            remove_pins(&Config::default().pins.path, PinScope::ThisNamespace)?;
        }
        Ok(())
    }
}

pub fn costs(effort: &Effort) -> Result<()> {
    println!("Cost of one frame by hook: ns, by BPF_PROG_TEST_RUN; medians, and the ratio to XDP");
    println!("{:<36} {:>6} {:>22} {:>22}", "", "XDP", "XDP, before another", "traffic control");
    let source: IpAddr = [10, 0, 0, 1].into();
    let syn = FloodSpec::syn(Sources::InTurn(source, 1), 443);
    let data = FloodSpec { flags: frame::ACK, payload: 100, ..syn.clone() };
    let cases = [
        Case::new("data of an established connection", None, data),
        Case::new("SYN of a known source", None, syn.clone()),
        Case::new("SYN of a blocked source", None, syn).with(Standing::Blocked),
    ];
    for case in cases {
        let [xdp, before_another, traffic_control] = measure(&case, effort)?;
        let (chained, tc) = (before_another / xdp, traffic_control / xdp);
        let name = case.name();
        println!(
            "{name:<36} {xdp:>6.0} {before_another:>12.0} ({chained:>5.2} x) {traffic_control:>12.0} ({tc:>5.2} x)"
        );
    }
    println!();
    Ok(())
}

/// Measures the places in turn, so that a change of the machine's speed affects all of them.
fn measure(case: &Case, effort: &Effort) -> Result<[f64; 3]> {
    let lab = Lab::new()?;
    let places = [Place::Xdp, Place::BeforeAnother, Place::TrafficControl];
    let mut costs = [const { Vec::new() }; 3];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let placed: Vec<Placed> =
        places.into_iter().map(|place| load(&lab, case, place, &runtime)).collect::<Result<_>>()?;
    for _ in 0..effort.rounds {
        for (placed, costs) in placed.iter().zip(&mut costs) {
            costs.push(lab.server.within(|| run(&placed.datapath, case, effort))?);
        }
    }
    placed.into_iter().try_for_each(|placed| lab.server.within(|| placed.take_off()))?;
    Ok(costs.map(|costs| Statistic::of(costs).median))
}

fn run(datapath: &Datapath, case: &Case, effort: &Effort) -> Result<f64> {
    let frame = case.frame();
    let options = TestRunOptions { data_in: Some(&frame), repeat: effort.repeat, ..TestRunOptions::new() };
    Ok(datapath.run_packet_program(options)?.duration.as_nanos() as f64)
}

fn load(lab: &Lab, case: &Case, place: Place, runtime: &Runtime) -> Result<Placed> {
    let hook = if matches!(place, Place::TrafficControl) { Hook::Tc } else { Hook::Xdp };
    // Chaining needs pins.
    let (neighbour, pins) = match place {
        Place::BeforeAnother => (Some(Neighbour::attach(lab, LOOPBACK.0)?), Some(Config::default().pins.path)),
        Place::Xdp | Place::TrafficControl => (None, None),
    };
    lab.server.within(|| {
        let _entered = runtime.enter();
        let (mut datapath, mut maps) = Datapath::load(&options(hook, pins))?;
        datapath.take_effect()?;
        set_standing(case, &datapath, &mut maps)?;
        let other = match neighbour {
            Some(neighbour) => {
                let (name, index) = LOOPBACK;
                let target = Target { name, index, program: Some((neighbour.id, Some(AttachMode::Generic))) };
                let attachment = datapath.attach(target, XdpMode::Auto, Coexist::Chain)?;
                Some((neighbour, attachment))
            }
            None => None,
        };
        Ok(Placed { datapath, other })
    })
}
